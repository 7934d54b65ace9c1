/*
 * A provider of security labels for tests: it accepts every label and does
 * nothing with it. The few declarations stand here because the server's headers
 * are seldom installed; the block of numbers is what the server checks before
 * it loads a library.
 */
typedef struct ObjectAddress ObjectAddress;
typedef void (*check_label) (const ObjectAddress *object, const char *label);
extern void register_label_provider(const char *provider, check_label hook);

static const struct
{
	int			len;
	int			version;
	int			max_args;
	int			index_keys;
	int			name_length;
	int			float8_by_value;
	char		extra[32];
}			magic = {sizeof(magic), MAJOR * 100, 100, 32, 64, 1, "PostgreSQL"};

const void *
Pg_magic_func(void)
{
	return &magic;
}

static void
accept(const ObjectAddress *object, const char *label)
{
	(void) object;
	(void) label;
}

void
_PG_init(void)
{
	register_label_provider("zoo", accept);
}
