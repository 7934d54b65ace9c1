package config

// parseNotify reads which runs are told of. As a switch it means all or none.
func parseNotify(text string) (string, error) {
	if on, err := parseBool(text); err == nil {
		return map[bool]string{true: "all", false: "none"}[on], nil
	}
	return oneOf("scheduled", "all", "none")(text)
}

// parseNotifyOn reads what is told of.
func parseNotifyOn(c *Config, texts []string) error {
	on := map[string]bool{}
	for _, text := range texts {
		word, err := oneOf("failure", "success", "failed", "partial", "recovery", "health")(text)
		if err != nil {
			return err
		}
		names := []string{word}
		switch word {
		case "failure":
			names = []string{"failed", "partial", "recovery", "health"}
		case "success":
			names = []string{"success", "failed", "partial", "recovery", "health"}
		}
		for _, name := range names {
			on[name] = true
		}
	}
	c.Notify.On = on
	return nil
}

// Tells reports whether runs are told of that the schedule starts, or those that a
// person does.
func (n Notify) Tells(scheduled bool) bool {
	return n.Runs == "all" || scheduled && n.Runs == "scheduled"
}
