"""What a simulation found: figures, a terminal table, a page with plots, a trace for Perfetto."""
