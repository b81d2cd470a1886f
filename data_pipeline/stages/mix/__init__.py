"""Mix sources by weights or epochs."""
