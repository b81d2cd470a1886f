"""What a person sees: tables, charts, HTML, traces."""
