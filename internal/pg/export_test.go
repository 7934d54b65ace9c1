package pg

// SetManyRelations sets from how many relations on a Fingerprinter reads all
// dependencies of the database in one pass.
func SetManyRelations(f *Fingerprinter, n int) { f.many = n }
