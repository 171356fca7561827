"""What training costs and where it goes, as ratios of times that are taken in turn: `bcrit bench`."""
