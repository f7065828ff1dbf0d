"""Files that runs fill in or copy."""
