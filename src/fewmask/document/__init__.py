"""What a report page is made of, its charts, and the page as one HTML file. Knows nothing of runs or networks."""
