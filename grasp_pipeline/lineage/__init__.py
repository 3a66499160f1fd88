"""Looking back: what a curation was, what became of a document in it, and what another one did otherwise."""
