/* A strict parser of Alpaca's regular page of bars, which holds no lock of Python's.
 *
 * Belongs here: the page as Alpaca writes it, byte for byte, into columns. Does not belong here:
 * what is otherwise valid (spaces, other keys, nulls, escapes, exponents). Such a page is refused,
 * and `pages` decodes it in Python. A page is read equal to that or not at all.
 *
 *   page   = {"bars":{ symbol *( , symbol ) },"next_page_token": ( null | text ) } *white
 *   symbol = text :[ bar *( , bar ) ]
 *   bar    = {"c": price ,"h": price ,"l": price ,"n": count ,"o": price ,
 *             "t":" YYYY-MM-DDThh:mm:ssZ ","v": count ,"vw": price }
 *   text   = " *( printable ASCII without " and \ ) "
 *   price  = digits without a leading zero, then at most once a point and digits: 227.455, 1105
 *   count  = digits without a leading zero
 *
 * The bytes are a stranger's. Every read is checked against the end of the page, every write
 * against the rows that were counted before, and memory is bounded by the page's size.
 */

#define Py_LIMITED_API 0x030B0000 /* one build serves Python 3.11 and later */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <float.h>
#include <stdint.h>
#include <string.h>

#if FLT_EVAL_METHOD != 0
#error "Prices are rounded once only where a double is computed as a double."
#endif

/* The columns of a row, eight bytes each, in the order in which they are handed over. */
enum { AT, OPEN, HIGH, LOW, CLOSE, VWAP, VOLUME, TRADES, COLUMNS };

/* The shortest bar there is; more bars than that fit into a page are not there. */
#define SHORTEST "{\"c\":0,\"h\":0,\"l\":0,\"n\":0,\"o\":0,\"t\":\"2000-01-01T00:00:00Z\",\"v\":0,\"vw\":0}"

typedef struct {
    const char *at; /* the next byte */
    const char *end;
} Cursor;

typedef struct {
    Py_ssize_t start, length; /* its name, in the page */
} Span;

typedef struct {
    Py_ssize_t rows, symbols; /* as counted, and never exceeded */
    char *columns;            /* COLUMNS × rows × 8 bytes, column after column */
    int64_t *counts;          /* rows of each symbol */
    Span *names;              /* of each symbol */
    Span token;               /* a start of -1: null */
} Page;

/* Is the text next? Then pass over it. A macro, so that its length is known to the compiler. */
#define TAKE(cursor, text) take(cursor, text, sizeof(text) - 1)

static inline int
take(Cursor *cursor, const char *text, size_t length)
{
    if ((size_t)(cursor->end - cursor->at) < length || memcmp(cursor->at, text, length) != 0)
        return 0;
    cursor->at += length;
    return 1;
}

/* Digits, added to the value. Returns how many; the value is right up to 19. */
static inline Py_ssize_t
take_digits(Cursor *cursor, uint64_t *value)
{
    const char *at = cursor->at;
    uint64_t sum = *value;
    unsigned digit;
    while (at < cursor->end && (digit = (unsigned)(unsigned char)*at - '0') <= 9) {
        sum = sum * 10 + digit; /* may wrap around, which the number of digits tells */
        at++;
    }
    Py_ssize_t length = at - cursor->at;
    *value = sum;
    cursor->at = at;
    return length;
}

/* A whole number of at most 18 digits, which 63 bits hold. */
static inline int
take_count(Cursor *cursor, int64_t *count)
{
    const char *start = cursor->at;
    uint64_t value = 0;
    Py_ssize_t digits = take_digits(cursor, &value);
    if (digits < 1 || digits > 18 || (digits > 1 && *start == '0'))
        return 0;
    *count = (int64_t)value;
    return 1;
}

/* A price, rounded as a correct strtod rounds.
 *
 * Both the digits (up to 2^53) and the power of ten (up to 10^22) are doubles without an error, and
 * IEEE 754 rounds their quotient once: W. D. Clinger, How to read floating point numbers
 * accurately, 1990. What has more digits is refused.
 */
static inline int
take_price(Cursor *cursor, double *price)
{
    static const double powers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8, 1e9,
                                    1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18};
    const char *start = cursor->at;
    uint64_t value = 0;
    Py_ssize_t whole = take_digits(cursor, &value), places = 0;
    if (whole < 1 || (whole > 1 && *start == '0'))
        return 0;
    if (cursor->at < cursor->end && *cursor->at == '.') {
        cursor->at++;
        places = take_digits(cursor, &value);
        if (places < 1)
            return 0;
    }
    if (whole + places > 19 || value > (UINT64_C(1) << 53))
        return 0;
    *price = (double)value / powers[places];
    return 1;
}

/* A text that stands for itself. */
static inline int
take_text(Cursor *cursor, const char *page, Span *text)
{
    if (!TAKE(cursor, "\""))
        return 0;
    const char *at = cursor->at;
    while (at < cursor->end && *at >= ' ' && *at <= '~' && *at != '"' && *at != '\\')
        at++;
    text->start = cursor->at - page;
    text->length = at - cursor->at;
    cursor->at = at;
    return TAKE(cursor, "\"");
}

/* Two digits, or something of 100 and above. */
static inline unsigned
two_digits(const char *at)
{
    unsigned tens = (unsigned)(unsigned char)at[0] - '0', ones = (unsigned)(unsigned char)at[1] - '0';
    return tens <= 9 && ones <= 9 ? tens * 10 + ones : 100;
}

/* An instant in UTC, as microseconds since 1970; from 1970 to 2199, with whole seconds. */
static inline int
take_instant(Cursor *cursor, int64_t *instant)
{
    static const unsigned char lengths[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    const char *at = cursor->at;
    if (cursor->end - at < 20)
        return 0;
    unsigned century = two_digits(at), rest = two_digits(at + 2), month = two_digits(at + 5);
    unsigned day = two_digits(at + 8), hour = two_digits(at + 11), minute = two_digits(at + 14);
    unsigned second = two_digits(at + 17);
    if (at[4] != '-' || at[7] != '-' || at[10] != 'T' || at[13] != ':' || at[16] != ':' ||
        at[19] != 'Z' || century > 21 || rest > 99 || hour > 23 || minute > 59 || second > 59)
        return 0;
    unsigned year = century * 100 + rest;
    unsigned leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    if (year < 1970 || month < 1 || month > 12 || day < 1 ||
        day > lengths[month - 1] + (unsigned)(month == 2 && leap))
        return 0;
    /* Days since 1970-01-01, of years that begin in March, so that a leap day is their last. */
    unsigned march = year - (month <= 2), place = (month + 9) % 12;
    int64_t days = (int64_t)march * 365 + march / 4 - march / 100 + march / 400 +
                   (153 * place + 2) / 5 + day - 1 - 719468;
    *instant = (((days * 24 + hour) * 60 + minute) * 60 + second) * 1000000;
    cursor->at += 20;
    return 1;
}

static inline int
take_bar(Cursor *cursor, const Page *page, Py_ssize_t row)
{
    double close, high, low, open, vwap;
    int64_t trades, at, volume;
    if (!(TAKE(cursor, "{\"c\":") && take_price(cursor, &close) &&
          TAKE(cursor, ",\"h\":") && take_price(cursor, &high) &&
          TAKE(cursor, ",\"l\":") && take_price(cursor, &low) &&
          TAKE(cursor, ",\"n\":") && take_count(cursor, &trades) &&
          TAKE(cursor, ",\"o\":") && take_price(cursor, &open) &&
          TAKE(cursor, ",\"t\":\"") && take_instant(cursor, &at) &&
          TAKE(cursor, "\",\"v\":") && take_count(cursor, &volume) &&
          TAKE(cursor, ",\"vw\":") && take_price(cursor, &vwap) &&
          TAKE(cursor, "}")))
        return 0;
    int64_t *whole = (int64_t *)page->columns + row;
    double *real = (double *)page->columns + row;
    whole[AT * page->rows] = at;
    real[OPEN * page->rows] = open;
    real[HIGH * page->rows] = high;
    real[LOW * page->rows] = low;
    real[CLOSE * page->rows] = close;
    real[VWAP * page->rows] = vwap;
    whole[VOLUME * page->rows] = volume;
    whole[TRADES * page->rows] = trades;
    return 1;
}

/* The whole page; 0 when it is not regular. Needs no lock: it touches no object of Python's. */
static int
take_page(const char *bytes, Py_ssize_t length, Page *page)
{
    Cursor cursor = {bytes, bytes + length};
    Py_ssize_t row = 0, symbol = 0;
    if (!TAKE(&cursor, "{\"bars\":{"))
        return 0;
    do {
        Py_ssize_t first = row;
        if (symbol == page->symbols || !take_text(&cursor, bytes, &page->names[symbol]) ||
            !TAKE(&cursor, ":["))
            return 0;
        do {
            if (row == page->rows || !take_bar(&cursor, page, row))
                return 0;
            row++;
        } while (TAKE(&cursor, ","));
        if (!TAKE(&cursor, "]"))
            return 0;
        page->counts[symbol++] = row - first;
    } while (TAKE(&cursor, ","));
    if (row != page->rows || symbol != page->symbols || !TAKE(&cursor, "},\"next_page_token\":"))
        return 0;
    if (TAKE(&cursor, "null"))
        page->token.start = -1;
    else if (!take_text(&cursor, bytes, &page->token))
        return 0;
    if (!TAKE(&cursor, "}"))
        return 0;
    while (TAKE(&cursor, "\n") || TAKE(&cursor, "\r") || TAKE(&cursor, " ") || TAKE(&cursor, "\t"))
        ;
    return cursor.at == cursor.end;
}

static Py_ssize_t
occurrences(const char *bytes, Py_ssize_t length, char wanted)
{
    const char *at = bytes, *end = bytes + length;
    Py_ssize_t found = 0;
    while (at < end && (at = memchr(at, wanted, (size_t)(end - at))) != NULL) {
        found++;
        at++;
    }
    return found;
}

/* (names, counts, columns, token): the answer of `parse`. */
static PyObject *
handed_over(const char *bytes, const Page *page, PyObject *counts, PyObject *columns)
{
    PyObject *names = PyTuple_New(page->symbols), *token = NULL, *answer = NULL;
    if (names == NULL)
        return NULL;
    for (Py_ssize_t symbol = 0; symbol < page->symbols; symbol++) {
        Span span = page->names[symbol];
        PyObject *name = PyUnicode_FromStringAndSize(bytes + span.start, span.length);
        if (name == NULL || PyTuple_SetItem(names, symbol, name) < 0)
            goto done;
    }
    if (page->token.start < 0)
        token = Py_NewRef(Py_None);
    else
        token = PyUnicode_FromStringAndSize(bytes + page->token.start, page->token.length);
    if (token != NULL)
        answer = PyTuple_Pack(4, names, counts, columns, token);
done:
    Py_DECREF(names);
    Py_XDECREF(token);
    return answer;
}

PyDoc_STRVAR(parse_doc,
"parse(page, /)\n--\n\n"
"Read a regular page of bars into columns; None if it is not regular. See _pages.pyi.");

static PyObject *
parse(PyObject *Py_UNUSED(module), PyObject *given)
{
    Py_buffer body;
    if (PyObject_GetBuffer(given, &body, PyBUF_SIMPLE) < 0)
        return NULL;
    const char *bytes = body.buf;
    Page page = {0};
    PyObject *counts = NULL, *columns = NULL, *answer = NULL;
    int regular = 0;

    Py_BEGIN_ALLOW_THREADS
    page.rows = occurrences(bytes, body.len, '}') - 2; /* those of the page and of "bars" */
    page.symbols = occurrences(bytes, body.len, '[');
    Py_END_ALLOW_THREADS
    if (page.symbols < 1 || page.symbols > page.rows ||
        page.rows > body.len / (Py_ssize_t)(sizeof(SHORTEST) - 1)) {
        answer = Py_NewRef(Py_None);
        goto done;
    }
    counts = PyBytes_FromStringAndSize(NULL, page.symbols * (Py_ssize_t)sizeof(int64_t));
    columns = PyBytes_FromStringAndSize(NULL, COLUMNS * page.rows * 8);
    page.names = PyMem_Malloc((size_t)page.symbols * sizeof(Span));
    if (counts == NULL || columns == NULL)
        goto done;
    if (page.names == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    /* Nobody else has these objects yet, so they may be written without the lock. */
    page.counts = (int64_t *)PyBytes_AsString(counts);
    page.columns = PyBytes_AsString(columns);
    Py_BEGIN_ALLOW_THREADS
    regular = take_page(bytes, body.len, &page);
    Py_END_ALLOW_THREADS
    answer = regular ? handed_over(bytes, &page, counts, columns) : Py_NewRef(Py_None);
done:
    PyMem_Free(page.names);
    Py_XDECREF(counts);
    Py_XDECREF(columns);
    PyBuffer_Release(&body);
    return answer;
}

static PyMethodDef methods[] = {
    {"parse", parse, METH_O, parse_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_pages",
    .m_doc = "A strict parser of Alpaca's regular page of bars.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__pages(void)
{
    return PyModuleDef_Init(&definition);
}
