"""Tables as people have them: damaged, in odd encodings, with stray quotes and many spellings."""

import bz2
import gzip
import re

import numpy as np
import pytest
from kfisher_scripts.comparison import command, options
from kfisher_scripts.comparison.numbers import Format, NotANumber, numbers
from kfisher_scripts.comparison.table_file import TableError

N = 40
RNG = np.random.default_rng(0)
A, Y = RNG.normal(size=(2, N)).round(3)
TEXT = "a,y\n" + "".join(f"{a},{y}\n" for a, y in zip(A, Y))


def problem_of(path, *arguments):
    return command.problem_of(
        options.parse(["--data", str(path), "--target", "y", "--out", str(path.parent / "out"), *arguments])
    )


def refused(path, *arguments):
    with pytest.raises(TableError) as found:
        problem_of(path, *arguments)
    return str(found.value)


@pytest.fixture
def table(tmp_path):
    """Writes a CSV file of named columns, as they stand, and returns its path."""

    def write(**columns):
        path = tmp_path / "house.csv"
        rows = [columns, *zip(*columns.values())]
        path.write_text("".join(",".join(map(str, row)) + "\n" for row in rows), "utf-8")
        return path

    return write


# --- files --------------------------------------------------------------------------------------------


def damaged(data):
    """With two bytes of it turned over."""
    bad = bytearray(data)
    bad[14] ^= 0xFF
    bad[20] ^= 0xFF
    return bytes(bad)


@pytest.mark.parametrize(
    "content, said",
    [
        (damaged(gzip.compress(TEXT.encode())), "compressed by gzip, and damaged. Copy it again"),
        (b'{"a":' + b"1" * 140_000 + b"}\n", "line 1 .* field limit .* Is it a CSV file"),
        (TEXT.encode() + b"1" * 140_000 + b",2\n", "line 42 .* field limit .* Is it a CSV file"),
        (bz2.compress(TEXT.encode()), "is compressed by bzip2. Unpack it"),
        (b"PAR1\x15\x04\x15", "is a Parquet file"),
        (b"a.csv".ljust(257, b"\0") + b"ustar", "is a tar archive. Unpack it"),
        (TEXT.encode("utf-16-le"), "looks like UTF-16.* --encoding utf-16-le$"),
        (TEXT.encode("utf-16-be"), "looks like UTF-16.* --encoding utf-16-be$"),
        (TEXT.encode("utf-16"), "Line 1 .* say utf-16$"),
        (TEXT.encode() + b"1,\0\n", "has NUL characters, first in line 42"),
    ],
    ids=[
        "gzip",
        "long line",
        "long entry",
        "bzip2",
        "parquet",
        "tar",
        "utf-16-le",
        "utf-16-be",
        "utf-16",
        "nul",
    ],
)
def test_a_file_that_is_no_csv_is_called_what_it_is(content, said, tmp_path):
    path = tmp_path / "house.csv"
    path.write_bytes(content)
    assert re.search(said, refused(path))


@pytest.mark.parametrize("encoding", ["utf-8", "utf8", "UTF_8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("separator", [",", "sep=;"])
def test_the_mark_of_an_encoding_is_no_part_of_the_first_name(encoding, separator, tmp_path):
    swapped = TEXT.replace("a,y", "y,a")
    content = swapped if separator == "," else f"{separator}\n{swapped.replace(',', ';')}"
    path = tmp_path / "house.csv"
    mark = "" if encoding in ("utf-16", "utf-8-sig") else "\ufeff"  # which Python writes itself
    path.write_bytes((mark + content).encode(encoding))
    data = problem_of(path, "--encoding", encoding)[0].data()
    assert sum(map(len, (data.x, data.x_test, data.x_validation))) == N


def test_the_mark_of_utf_8_read_otherwise_is_told(tmp_path):
    path = tmp_path / "house.csv"
    path.write_text(TEXT, "utf-8-sig")
    assert "the mark of UTF-8. Leave out --encoding cp1252" in refused(path, "--encoding", "cp1252")


@pytest.mark.parametrize("columns", ["one", "all"])
def test_formulas_without_values_are_said(columns, tmp_path):
    book = pytest.importorskip("openpyxl").Workbook()
    book.active.append(["a", "y", "b"])
    for i, (a, y) in enumerate(zip(A.tolist(), Y.tolist()), start=2):
        book.active.append([f"=C{i}*2", y if columns == "one" else f"=A{i}", a])
    path = tmp_path / "house.xlsx"
    book.save(path)
    assert re.search("has formulas without values, such as '=.*2' in line 2. Save it in Excel", refused(path))
    if columns == "one":
        assert problem_of(path, "--drop", "a")[0].data().x.shape[1] == 1


@pytest.mark.parametrize("damage", ["cut", "turned over"])
def test_a_damaged_workbook_is_said(damage, tmp_path):
    book = pytest.importorskip("openpyxl").Workbook()
    book.active.append(["a", "y"])
    path = tmp_path / "house.xlsx"
    book.save(path)
    whole = path.read_bytes()
    begin = whole.index(b"xl/worksheets/sheet1.xml") + 30
    turned = whole[:begin] + bytes(255 - b for b in whole[begin : begin + 40]) + whole[begin + 40 :]
    path.write_bytes(whole[:900] if damage == "cut" else turned)
    assert re.search("no workbook .*It seems to be damaged: save it", refused(path))


# --- stray quotes -------------------------------------------------------------------------------------


def with_stray_quotes(entries):
    """One before the entry of line 6, one after that of line 13: between them all is one entry."""
    entries = list(map(str, entries))
    entries[4], entries[11] = f'"{entries[4]}', f'{entries[11]}"'
    return entries


def test_rows_that_stray_quotes_make_one_are_noted_where_they_are_dropped(table):
    path = table(a=A, note=with_stray_quotes(["x"] * N), y=Y)
    said = " ".join(problem_of(path, "--drop", "note")[1])
    assert "span several lines: 1, the first in lines 6 to 13, where an entry of note" in said
    whole = table(a=A, note=['"x "" x"'] * N, y=Y)
    assert "span" not in " ".join(problem_of(whole, "--drop", "note")[1])


def test_rows_that_stray_quotes_make_one_are_refused_where_they_are_kept(table):
    path = table(a=A, y=with_stray_quotes(np.where(Y > 0, "yes", "no")))
    said = refused(path)
    assert re.search(r"Lines 6 to 13 .* entry of 'y', '(yes|no)\\n", said) and len(said) < 350 + len(
        str(path)
    )


# --- numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "entry, form, way_out",
    [
        ("-1.259", Format(","), "it is -1.259 without --decimal , or it is -1259 with --decimal , --thous"),
        ("-1.26", Format(","), "it is -1.26 without --decimal ,"),
        ("1.26", Format(",", "."), "it is 1.26 without --decimal , --thousands ."),
        ("(1,296)", Format(), "write -1,296: it is -1296 with --thousands , or it is -1.296 with --decimal"),
        ("($4,361)", Format(".", ","), "write -4361, with $ if the others have it"),
        ("(1,5)", Format(","), "if bookkeepers' parentheses mean a negative number, write -1,5"),
        ("\u20130.132", Format(), "if its dash means a minus, write -0.132"),
        ("(-5)", Format(), ""),
        ("(a)", Format(), ""),
        ("5\u201310", Format(), ""),
    ],
)
def test_each_number_written_otherwise_has_its_way_out(entry, form, way_out):
    with pytest.raises(NotANumber) as found:
        numbers([entry], form)
    assert way_out in found.value.way_out and bool(way_out) == bool(found.value.way_out)


def test_a_decimal_point_under_a_decimal_comma_is_no_class(table):
    path = table(a=range(N), y=Y.round(2))
    path.write_text(path.read_text().replace(",", ";"))
    assert f"'{Y[0]:.2f}' in line 2: it is {Y[0]:.2f} without --decimal ," in refused(path, "--decimal", ",")


def test_true_and_false_among_numbers_are_asked_about(table):
    mixed = np.where(Y > 0, "True", np.where(Y > -0.5, "0", "1"))
    for path in (table(a=A, y=mixed), table(a=mixed, y=Y)):
        assert "the column holds numbers, too; write 1 if that is meant" in refused(path)
        assert "write 1 if" in refused(path, "--categorical")
    notes = " ".join(problem_of(table(a=A, y=mixed), "--task", "classification")[1])
    assert "y: different values are '1' and 'True'; write alike" in notes
    other = np.where(Y > 0.5, "True", np.where(Y > -0.5, "False", "unknown"))
    assert "y: 3 classes (False, True, unknown)" in problem_of(table(a=A, y=other))[1]


def test_true_is_not_counted_among_numbers(table):
    mixed = ["?!", *["True"] * 15, *range(24)]
    assert "y: holds" not in (said := refused(table(a=A, y=mixed))) and "24 numbers, in 40 rows" in said


# --- spelling -----------------------------------------------------------------------------------------


def test_values_that_differ_in_case_or_spaces_are_noted(table):
    values = np.array(["Yes", "yes", "no", "N O", "maybe"])[np.arange(N) % 5]
    note = "different values are 'N O' and 'no'; 'Yes' and 'yes'; write alike what means the same"
    assert f"y: {note}" in problem_of(table(a=A, y=values))[1]
    assert f"a: {note}" in problem_of(table(a=values, y=Y), "--categorical")[1]
    clean = np.where(Y > 0, "yes", "no")
    assert "write alike" not in " ".join(problem_of(table(a=A, y=clean))[1])


def test_codes_that_differ_by_leading_zeros_are_different_classes(table):
    path = table(a=A, y=np.where(Y > 0, "01234", "1234"))
    notes = problem_of(path)[1]
    assert "y: 2 classes (01234, 1234)" in notes
    assert "y: different values are '01234' and '1234'; write alike what means the same" in notes
    padded = [f"{i % 5:02}" for i in range(N)]
    assert "y: 5 classes (0, 1, 2, 3, 4)" in problem_of(table(a=A, y=padded))[1]
    many = [f"{i}" for i in range(N - 1)] + ["07"]
    assert refused(table(a=A, y=many)).endswith("which are no classes. Pass --task regression")


@pytest.mark.parametrize("entry, dates", [("2020-01-31", True), ("31 Jan 2020", True), ("Yes", False)])
def test_only_dates_are_to_be_written_as_numbers_of_days(entry, dates, table):
    assert ("Write dates as numbers of days, take" in refused(table(a=[entry] * N, y=Y))) == dates
