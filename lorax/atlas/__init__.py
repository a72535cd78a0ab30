"""The atlas: LoRA weights as descriptors of what they learned; to search, cluster and compare adapters."""
