"""What interrupts a run, and how it resumes."""
