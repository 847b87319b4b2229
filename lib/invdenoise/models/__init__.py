"""The networks and methods, one family a file. Declarations name them by file and class, such as `dninn.DnINN`."""
