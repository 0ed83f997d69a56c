"""Study folders: their runs, and which run is best."""
