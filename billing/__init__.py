"""What is owed, and the proof: bill runs, invoices, documents and the ledger."""
