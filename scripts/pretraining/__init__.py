"""The pretraining of the residual backbone: telling apart a thousand random pipelines that make pictures."""
