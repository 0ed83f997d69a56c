"""One folder a study: what was run, what may answer for it, and which run is best."""
