"""Side-by-side measurements that anyone can run again.  Figures are ratios and CPU per key, never a timed test."""
