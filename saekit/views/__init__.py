"""Live notebook views, one module each; `saekit` itself exports the classes."""
