"""From raw Chinese pages to packed training samples."""
