package pg

import "time"

// ConnectLimit is how long a server waits for a host to answer; LimitConnect changes it.
func (s *Server) ConnectLimit() time.Duration { return s.current().ConnectTimeout }

// LimitConnect is the same server with another limit.
func (s *Server) LimitConnect(limit time.Duration) *Server {
	c := s.current().Copy()
	c.ConnectTimeout = limit
	return &Server{config: c}
}

// SetManyRelations sets from how many relations on a Fingerprinter reads all
// dependencies of the database in one pass.
func SetManyRelations(f *Fingerprinter, n int) { f.many = n }
