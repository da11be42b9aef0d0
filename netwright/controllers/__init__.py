"""Controllers, all behind `netwright.protocols.Controller`."""
