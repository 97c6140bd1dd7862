"""Text to token shards, and token shards back to rows.

A *domain* is a folder of shards with a manifest (`DomainManifest`) that lists every shard with its
hash, per split (`train`, `validation`). `write_domain` makes one from text files with a
`Tokenizer`; `RowReader` reads rows of many domains by number. Nothing here knows of training.
"""
