"""The papers' tables: published cells as data, one TOML file a paper, and what comes out when counted again."""
