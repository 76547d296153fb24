"""What people see: the table, its exports, the plots and the terminal's summary. Reads records, measures nothing."""
