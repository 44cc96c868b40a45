"""clickledger: an event-sourced ledger of billing decisions on ad clicks."""
