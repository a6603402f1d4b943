"""Programs behind the tables and pictures of the documents: `python -m studies.NAME`, from the root of a checkout."""
