"""What to do with these images: experience, a forecast from it, and advice with its reasons."""
