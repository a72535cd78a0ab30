"""Verdicts on whole collections, a partition at a time, on one machine's cores or a cluster's: `lorax score`."""
