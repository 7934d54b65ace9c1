package ui

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"charm.land/bubbles/v2/key"
	tea "charm.land/bubbletea/v2"
	"charm.land/huh/v2"
	"github.com/charmbracelet/x/ansi"
)

// list is a field of a form: rows to choose one or more from, found by typing.
// Unlike huh's own fields it draws only what is seen, so that thousands of
// tenants cost no more than ten, and looks for names only, not for what stands
// beside them.
type list struct {
	menu  Menu
	names []string // what typing looks for, in lower case
	// marked are the rows that are chosen; nil where one is to be chosen.
	marked map[int]bool
	err    error

	find    string
	visible []int // rows that hold what was typed
	cursor  int   // in visible
	top     int   // of what is shown, in visible

	width, height int // of the screen
	header        string
	lines         []string // laid out for the width
	style         *huh.Styles
}

var _ huh.Field = (*list)(nil)

func (u *UI) newList(m Menu) *list {
	l := &list{menu: m, style: theme(false), cursor: max(0, min(m.Start, len(m.Rows)-1))}
	for i, row := range m.Rows {
		name := row[0] + "\n" + Safe(row[0])
		if i < len(m.Also) {
			name += "\n" + m.Also[i]
		}
		l.names = append(l.names, strings.ToLower(name))
	}
	l.resize(terminalSize(u.opts.Stderr))
	l.search("")
	return l
}

// finding reports whether something was typed.
func (l *list) finding() bool { return l.find != "" }

// resize lays the rows out anew. The last column of the screen stays free:
// terminals differ in what they do there.
func (l *list) resize(width, height int) {
	l.height = height
	if l.width == width {
		return
	}
	l.width = width
	l.header, l.lines = layOut(l.menu.Columns, l.menu.Rows, width-1-len(pointer+l.prefix(-1)))
}

// pointer stands before the row under the cursor.
const pointer = "> "

// prefix is what stands before a row.
func (l *list) prefix(row int) string {
	switch {
	case l.marked == nil:
		return ""
	case l.marked[row]:
		return "[x] "
	default:
		return "[ ] "
	}
}

// search shows the rows that hold a text, and keeps the cursor on its row where
// that is one of them.
func (l *list) search(text string) {
	at := -1
	if l.cursor < len(l.visible) {
		at = l.visible[l.cursor]
	} else if l.visible == nil {
		at = l.cursor
	}
	l.find, l.visible, l.cursor = text, []int{}, 0
	for row, name := range l.names {
		if strings.Contains(name, strings.ToLower(text)) {
			if row == at {
				l.cursor = len(l.visible)
			}
			l.visible = append(l.visible, row)
		}
	}
}

// room is how many rows are shown.
func (l *list) room() int {
	other := 1 + len(l.notes()) + 1 + 2 + 2 // title, header, position and keys with an empty line each, and the last line
	if l.menu.Find {
		other++
	}
	return max(1, min(len(l.menu.Rows), l.height-other))
}

// notes are wrapped to the width.
func (l *list) notes() []string {
	var lines []string
	for _, note := range l.menu.Notes {
		lines = append(lines, strings.Split(ansi.Wrap(note, max(20, l.width-1), ""), "\n")...)
	}
	return lines
}

// Init does nothing.
func (*list) Init() tea.Cmd { return nil }

// Update follows keys and the size of the screen.
func (l *list) Update(msg tea.Msg) (huh.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		if msg.Width == l.width && msg.Height == l.height {
			break
		}
		l.resize(msg.Width, msg.Height)
		// The form around has measured the field as it was before.
		return l, tea.RequestWindowSize
	case tea.PasteMsg:
		if l.menu.Find {
			l.search(l.find + printable(msg.Content))
		}
	case tea.KeyPressMsg:
		return l, l.press(msg)
	}
	return l, nil
}

func (l *list) press(msg tea.KeyPressMsg) tea.Cmd {
	l.err = nil
	page := max(1, l.room()-1)
	switch typed := msg.String(); typed {
	case "up", "ctrl+p":
		l.move(-1)
	case "down", "ctrl+n": // not ctrl+j: that is what Enter is before the terminal is set up
		l.move(1)
	case "pgup":
		l.move(-page)
	case "pgdown":
		l.move(page)
	case "home":
		l.move(-len(l.visible))
	case "end":
		l.move(len(l.visible))
	case "esc", "ctrl+u":
		l.search("")
	case "backspace":
		if runes := []rune(l.find); len(runes) > 0 {
			l.search(string(runes[:len(runes)-1]))
		}
	case "enter":
		return l.enter()
	default:
		switch {
		case l.marked != nil && typed == "space":
			l.toggle(l.at())
		case l.marked != nil && typed == "ctrl+a":
			l.toggle(l.visible)
		case l.menu.Find && msg.Text != "":
			l.search(l.find + printable(msg.Text))
		}
	}
	return nil
}

// at is the row under the cursor, if there is one.
func (l *list) at() []int {
	if l.cursor >= len(l.visible) {
		return nil
	}
	return l.visible[l.cursor : l.cursor+1]
}

// move stops at both ends.
func (l *list) move(by int) { l.cursor = max(0, min(l.cursor+by, len(l.visible)-1)) }

// toggle marks rows, or, where all are marked, takes the marks away.
func (l *list) toggle(rows []int) {
	all := true
	for _, row := range rows {
		all = all && l.marked[row]
	}
	for _, row := range rows {
		l.marked[row] = !all
	}
}

func (l *list) enter() tea.Cmd {
	switch {
	case l.marked != nil:
		for _, marked := range l.marked {
			if marked {
				return huh.NextField
			}
		}
		l.err = errors.New("mark at least one with the space bar")
	case len(l.at()) > 0:
		return huh.NextField
	}
	return nil
}

// View draws the question and the rows around the cursor.
func (l *list) View() string {
	s := l.style.Focused
	lines := []string{s.Title.Render(l.menu.Title)}
	for _, note := range l.notes() {
		lines = append(lines, s.Description.Render(note))
	}
	if l.menu.Find {
		lines = append(lines, l.style.Help.ShortDesc.Render("find:")+" "+cutMiddle(l.find, max(10, l.width-10))+"_")
	}
	blank := strings.Repeat(" ", len(pointer+l.prefix(-1)))
	if strings.TrimSpace(l.header) != "" {
		lines = append(lines, l.style.Help.ShortDesc.Render(blank+l.header))
	}
	room := l.room()
	l.top = max(0, min(l.top, l.cursor, len(l.visible)-room))
	l.top = max(l.top, l.cursor-room+1)
	for i := l.top; i < l.top+room; i++ {
		switch {
		case i >= len(l.visible) && i == 0:
			lines = append(lines, "  nothing is called so")
		case i >= len(l.visible):
			lines = append(lines, "") // the list keeps its height
		case i == l.cursor:
			lines = append(lines, s.SelectSelector.Render(pointer)+s.SelectedOption.Render(l.prefix(l.visible[i])+l.lines[l.visible[i]]))
		default:
			lines = append(lines, "  "+l.prefix(l.visible[i])+l.lines[l.visible[i]])
		}
	}
	for i, line := range lines {
		lines[i] = ansi.Truncate(line, max(1, l.width-1), "…")
	}
	return strings.Join(append(lines, "", l.footer()), "\n")
}

// footer tells where the cursor is and what keys do, or what is wrong.
func (l *list) footer() string {
	if l.err != nil {
		return l.style.Focused.ErrorMessage.Render(l.err.Error())
	}
	var parts []string
	if len(l.visible) > l.room() || l.finding() {
		parts = append(parts, fmt.Sprintf("%s of %s", Count(int64(min(l.cursor+1, len(l.visible)))), Count(int64(len(l.visible)))))
	}
	for _, b := range l.KeyBinds() {
		if b.Enabled() {
			parts = append(parts, l.style.Help.ShortKey.Render(b.Help().Key)+" "+l.style.Help.ShortDesc.Render(b.Help().Desc))
		}
	}
	return ansi.Truncate(strings.Join(parts, l.style.Help.ShortSeparator.Render(" · ")), max(1, l.width-1), "…")
}

// KeyBinds are the keys to tell of.
func (l *list) KeyBinds() []key.Binding {
	bind := func(on bool, name, does string) key.Binding {
		b := key.NewBinding(key.WithKeys(name), key.WithHelp(name, does))
		b.SetEnabled(on)
		return b
	}
	esc := "leave"
	if l.finding() {
		esc = "all again"
	}
	many := l.marked != nil
	return []key.Binding{
		bind(true, "↑↓", "move"), bind(many, "space", "mark"), bind(many, "ctrl+a", "all"), bind(true, "enter", "go on"),
		bind(l.menu.Find, "a-z", "find"), bind(l.menu.Back, "←", "back"), bind(true, "esc", esc),
	}
}

// Blur and Focus do nothing: the list is alone in its form.
func (*list) Blur() tea.Cmd { return nil }

// Focus does nothing.
func (*list) Focus() tea.Cmd { return nil }

// Error returns nothing: what is wrong stands in the footer.
func (*list) Error() error { return nil }

// Run is what the list is not used for.
func (l *list) Run() error { return huh.Run(l) }

// RunAccessible is for forms that are not drawn, as this one always is.
func (*list) RunAccessible(io.Writer, io.Reader) error {
	return errors.New("a list needs a terminal that can be drawn on")
}

// Skip says that the list wants an answer.
func (*list) Skip() bool { return false }

// Zoom says that the list needs no form for itself.
func (*list) Zoom() bool { return false }

// WithTheme keeps the theme that all lists have.
func (l *list) WithTheme(huh.Theme) huh.Field { return l }

// WithKeyMap keeps the list's own keys.
func (l *list) WithKeyMap(*huh.KeyMap) huh.Field { return l }

// WithWidth does nothing: the list follows the screen.
func (l *list) WithWidth(int) huh.Field { return l }

// WithHeight does nothing: the list follows the screen.
func (l *list) WithHeight(int) huh.Field { return l }

// WithPosition does nothing: the list is alone in its form.
func (l *list) WithPosition(huh.FieldPosition) huh.Field { return l }

// GetKey returns no name, as the form has one answer only.
func (*list) GetKey() string { return "" }

// GetValue returns the place of the cursor.
func (l *list) GetValue() any { return l.cursor }
