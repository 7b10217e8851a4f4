"""Files and batches: many requests in a file, answered in their own time, whatever ends the process meanwhile."""
