"""The passages in LanceDB: a table a collection, a database a tenant. The only place that imports lancedb."""
