// Package wildcard matches names with the patterns that settings are written in.
package wildcard

// Match reports whether a name is what a pattern means: * stands for any text, ?
// for one character, and everything else for itself, upper and lower case included.
func Match(pattern, name string) bool {
	p, n := []rune(pattern), []rune(name)
	star, resume := -1, 0 // the last *, and where the text behind it was tried to begin
	i, j := 0, 0
	for j < len(n) {
		switch {
		case i < len(p) && p[i] == '*':
			star, resume = i, j
			i++
		case i < len(p) && (p[i] == '?' || p[i] == n[j]):
			i++
			j++
		case star >= 0:
			resume++
			i, j = star+1, resume
		default:
			return false
		}
	}
	for i < len(p) && p[i] == '*' {
		i++
	}
	return i == len(p)
}
