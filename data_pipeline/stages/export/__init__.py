"""Write the documents in the forms of other tools."""
