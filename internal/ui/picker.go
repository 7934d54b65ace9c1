package ui

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"unicode"

	tea "charm.land/bubbletea/v2"
	"charm.land/huh/v2"
	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/colorprofile"
	"github.com/charmbracelet/x/ansi"
	"golang.org/x/term"
)

// How a dialogue ends without an answer.
var (
	// ErrLeft is returned where the user left with Esc or Ctrl-C.
	ErrLeft = errors.New("left; nothing was done")
	// ErrBack is returned where the user wants the question before once more.
	ErrBack = errors.New("back to the question before")
)

// Menu is a question that is answered from a list on the terminal.
type Menu struct {
	Title   string   // the question
	Subject string   // what is asked for, to repeat the answer under: "Tenant"
	Notes   []string // what to know before answering; the caller makes names safe
	Columns []Column
	Rows    [][]string // cells are made safe; the first is what typing looks for
	Start   int        // the row to begin at
	Marked  []int      // of ChooseMany: rows that are marked at first
	Find    bool       // typing looks for rows
	Also    []string   // what else than the first cell typing looks for, a text for each row; may be nil
	Back    bool       // there is a question before
}

// Choose asks for one row of a menu and returns its index. The caller has made
// sure by CanAsk that there is a terminal. Besides ErrLeft and ErrBack it fails
// only where the terminal does, or with the cause of ctx.
func (u *UI) Choose(ctx context.Context, m Menu) (int, error) {
	list := u.newList(m)
	if err := u.dialogue(ctx, list, list, m.Back); err != nil {
		return 0, err
	}
	row := list.visible[list.cursor]
	u.answered(m.Subject, Safe(m.Rows[row][0]))
	return row, nil
}

// ChooseMany asks for one or more rows of a menu and returns their indices in
// order. It is otherwise like Choose.
func (u *UI) ChooseMany(ctx context.Context, m Menu) ([]int, error) {
	list := u.newList(m)
	list.marked = map[int]bool{}
	for _, row := range m.Marked {
		list.marked[row] = true
	}
	if err := u.dialogue(ctx, list, list, m.Back); err != nil {
		return nil, err
	}
	var rows []int
	var names []string
	for row := range m.Rows {
		if list.marked[row] {
			rows = append(rows, row)
			names = append(names, Safe(m.Rows[row][0]))
		}
	}
	u.answered(m.Subject, strings.Join(names, ", "))
	return rows, nil
}

// Question is one that is answered in words.
type Question struct {
	Title   string
	Subject string
	Note    string
	Value   string                    // proposed
	Check   func(answer string) error // what is wrong with an answer; it is shown as it is
	Back    bool
}

// Ask asks for a text, which is returned without the spaces around it. It is
// otherwise like Choose.
func (u *UI) Ask(ctx context.Context, q Question) (string, error) {
	answer := q.Value
	keys := "enter go on · esc leave"
	if q.Back {
		keys = "enter go on · shift+tab back · esc leave"
	}
	input := huh.NewInput().Title(q.Title).Description(strings.TrimLeft(q.Note+"\n"+keys, "\n")).Value(&answer).Validate(func(text string) error { return q.Check(strings.TrimSpace(text)) })
	if err := u.dialogue(ctx, input, nil, q.Back); err != nil {
		return "", err
	}
	answer = strings.TrimSpace(answer)
	u.answered(q.Subject, Safe(answer))
	return answer, nil
}

// answered leaves the answer on the screen, where the question is gone.
func (u *UI) answered(subject, answer string) {
	if subject != "" {
		u.say(u.paint(u.colorErr, cyan, subject+":") + " " + answer)
	}
}

// dialogue is one field on the screen until it is answered. It is huh's form,
// but for how it is left: so that the screen is clean before the question that
// is gone back to.
type dialogue struct {
	form *huh.Form
	list *list // the field, where it is a list
	back bool  // there is a question before
	end  error // set where it was left
}

// dialogue shows a field until it is answered. list is the field where it is a
// list.
func (u *UI) dialogue(ctx context.Context, field huh.Field, list *list, canGoBack bool) error {
	if !u.CanAsk() {
		return &UnattendedError{"a question"}
	}
	d := &dialogue{list: list, back: canGoBack}
	d.form = huh.NewForm(huh.NewGroup(field)).WithAccessible(false).WithTheme(huh.ThemeFunc(theme)).WithShowHelp(false)
	d.form.SubmitCmd = tea.Quit
	options := []tea.ProgramOption{
		tea.WithContext(ctx), tea.WithInput(u.opts.Stdin), tea.WithOutput(u.opts.Stderr),
		tea.WithoutSignalHandler(), // ctx ends with a signal
	}
	if !u.colorErr {
		options = append(options, tea.WithColorProfile(colorprofile.ASCII))
	}
	_, err := tea.NewProgram(d, options...).Run()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("ask on the terminal: %w", err)
	default:
		return d.end
	}
}

// Init starts the form.
func (d *dialogue) Init() tea.Cmd { return d.form.Init() }

// Update ends the dialogue where it is left, and gives everything else to the
// form.
func (d *dialogue) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	if press, is := msg.(tea.KeyPressMsg); is {
		d.end = d.leaves(press.String())
		if d.end != nil {
			return d, tea.Quit
		}
	}
	_, cmd := d.form.Update(msg) // which changes the form itself
	return d, cmd
}

// leaves returns how a key ends the dialogue, if it does.
func (d *dialogue) leaves(key string) error {
	switch {
	case key == "ctrl+c", key == "esc" && (d.list == nil || !d.list.finding()):
		return ErrLeft
	case d.back && (key == "shift+tab" || key == "left" && d.list != nil):
		return ErrBack
	default:
		return nil
	}
}

// View is nothing once the dialogue has ended.
func (d *dialogue) View() tea.View {
	if d.end != nil {
		return tea.NewView("")
	}
	return tea.NewView(d.form.View())
}

// theme is plain: what matters is told by signs and words, so that it is the
// same without colours, which are those that the user's terminal has.
func theme(bool) *huh.Styles {
	t := huh.ThemeBase(false)
	bold, faint := lipgloss.NewStyle().Bold(true), lipgloss.NewStyle().Faint(true)
	for _, f := range []*huh.FieldStyles{&t.Focused, &t.Blurred} {
		f.Base = lipgloss.NewStyle()
		f.Title, f.Description = bold, lipgloss.NewStyle()
		f.ErrorMessage = lipgloss.NewStyle().Foreground(lipgloss.Red)
		f.ErrorIndicator = lipgloss.NewStyle()
		f.SelectSelector = lipgloss.NewStyle().Foreground(lipgloss.Cyan)
		f.SelectedOption = bold
		f.TextInput.Prompt = lipgloss.NewStyle().Foreground(lipgloss.Cyan)
	}
	t.Help.ShortKey, t.Help.ShortDesc, t.Help.ShortSeparator = bold, faint, faint
	return t
}

// terminalSize returns columns and lines of a terminal, 80 and 24 where it does
// not tell.
func terminalSize(stream any) (width, height int) {
	if f, ok := stream.(*os.File); ok {
		if width, height, err := term.GetSize(int(f.Fd())); err == nil && width > 0 && height > 0 {
			return width, height
		}
	}
	return 80, 24
}

// gap is the space between two columns.
const gap = "  "

// minColumn is how narrow a column of names becomes.
const minColumn = 12

// layOut writes cells in columns that fit into a width. Columns of numbers keep
// theirs; the widest of the others give way. Names are cut in the middle, where
// they differ least.
func layOut(columns []Column, rows [][]string, width int) (header string, lines []string) {
	widths := make([]int, len(columns))
	safe := make([][]string, len(rows))
	for i, c := range columns {
		widths[i] = ansi.StringWidth(c.Title)
	}
	for r, row := range rows {
		safe[r] = make([]string, len(columns))
		for i := range min(len(columns), len(row)) {
			switch {
			case row[i] == "":
			case columns[i].Text:
				safe[r][i] = strings.Join(strings.Fields(SafeText(row[i])), " ")
			default:
				safe[r][i] = Safe(row[i])
			}
			widths[i] = max(widths[i], ansi.StringWidth(safe[r][i]))
		}
	}
	narrow(columns, widths, width-len(gap)*(len(columns)-1))
	line := func(cells []string) string {
		var b strings.Builder
		for i, cell := range cells {
			if i > 0 {
				b.WriteString(gap)
			}
			cell = cutMiddle(cell, widths[i])
			pad := strings.Repeat(" ", widths[i]-ansi.StringWidth(cell))
			if columns[i].Right {
				cell = pad + cell
			} else {
				cell += pad
			}
			b.WriteString(cell)
		}
		return ansi.Truncate(strings.TrimRight(b.String(), " "), max(width, 0), "…")
	}
	titles := make([]string, len(columns))
	for i, c := range columns {
		titles[i] = strings.ToUpper(c.Title)
	}
	for _, cells := range safe {
		lines = append(lines, line(cells))
	}
	return line(titles), lines
}

// narrow takes from the widest column until all fit.
func narrow(columns []Column, widths []int, room int) {
	for {
		sum, widest := 0, -1
		for i, w := range widths {
			sum += w
			if !columns[i].Right && w > minColumn && (widest < 0 || w > widths[widest]) {
				widest = i
			}
		}
		if sum <= room || widest < 0 {
			return
		}
		widths[widest]--
	}
}

// cutMiddle shortens a text to a width.
func cutMiddle(text string, width int) string {
	full := ansi.StringWidth(text)
	if full <= width {
		return text
	}
	left := width / 2
	right := width - left - 1
	// A wide character at a cut may cost a column more than there is.
	return ansi.Truncate(ansi.Truncate(text, left, "")+"…"+ansi.TruncateLeft(text, full-right, ""), width, "")
}

// printable is the text of what was typed or pasted, without what moves the
// cursor.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, text)
}
