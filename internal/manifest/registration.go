package manifest

// RegistryTable is a table outside of a tenant's schema, with those of its rows
// that make the tenant known to its application, as text.
type RegistryTable struct {
	Schema string `json:"schema"`
	Name   string `json:"table"`
	// Column holds the name of the tenant's schema or, where there is Refers, the
	// value that a row of an earlier table has there.
	Column  string             `json:"column"`
	Refers  *RegistryReference `json:"refers_to,omitempty"`
	Key     []string           `json:"key,omitempty"` // columns of the primary key
	Columns []RegistryColumn   `json:"columns"`       // without generated ones
	Rows    [][]*string        `json:"rows"`          // values by column; nil is NULL
}

// RegistryReference is what the column of a dependent table refers to.
type RegistryReference struct {
	Schema string `json:"schema"`
	Name   string `json:"table"`
	Column string `json:"column"`
}

// RegistryColumn is a column and its type, as the server that was backed up
// writes it.
type RegistryColumn struct {
	Name string `json:"name"`
	Type string `json:"type"`
}
