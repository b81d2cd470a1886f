"""Pack documents into rows of one length."""
