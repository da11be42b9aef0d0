"""Controllers: policy gradient and random search, all behind `netwright.protocols.Controller`."""
