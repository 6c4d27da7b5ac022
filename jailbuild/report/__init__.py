"""Text from data: pure, data in and str out."""
