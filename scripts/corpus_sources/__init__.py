"""Where the demo corpus comes from: one module per family of sources."""
