"""A finished run answers; when it should not; and pictures of what went wrong."""
