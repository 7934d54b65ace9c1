package restore

// The tables of tests are compared in several ranges.
func init() { splitTable = 2 << 20 }
