"""The plan of a run before it is made: what a sample of the user's corpus tells of the whole."""
