"""Controllers: policies that learn, and searches that do not, all behind `netwright.protocols.Controller`."""
