"""Training: a teacher, a student that learns from it, and a control that does not."""
