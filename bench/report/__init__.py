"""What is told of raw results: read, compared, judged, drawn and written, on any machine, without the extension."""
