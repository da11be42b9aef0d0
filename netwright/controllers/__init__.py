"""Controllers, those that learn and those that search, all behind `protocols.Controller`."""
