"""Verdicts over HTTP: `lorax serve`.

An upload is read with a cap (`uploads`), checked and decoded by a few threads (`decoding`), judged in batches by one
thread (`batching`), by the model version that an alias names just now (`model`, `following`). `service` ties these
together, `app` is what HTTP sees of it, `answers` the shape of what it says, `meters` what Prometheus reads, and
`server` runs it.
"""
