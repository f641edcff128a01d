"""Tables of any entries, separator and line ending are read as they were written."""

import csv
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from kfisher_scripts.comparison import table_file

words = st.text(st.sampled_from("abcXYZ019.,;\t\"' é-"), min_size=1, max_size=8)
entries = words.map(str.strip).filter(lambda s: s and s.lower() not in table_file._MISSING)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    data=st.data(),
    columns=st.integers(2, 4),
    separator=st.sampled_from(",;\t"),
    ending=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    mark=st.booleans(),
)
def test_what_is_written_is_read(data, columns, separator, ending, quoting, mark):
    header = [f"c{i}" for i in range(columns)]
    rows = data.draw(
        st.lists(
            st.lists(entries, min_size=columns, max_size=columns),
            min_size=table_file._FEWEST,
            max_size=table_file._FEWEST + 3,
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        with path.open("w", newline="", encoding="utf-8-sig" if mark else "utf-8") as file:
            writer = csv.writer(file, delimiter=separator, lineterminator=ending, quoting=quoting)
            writer.writerow(header)
            file.write(ending)  # an empty line is none
            writer.writerows(rows)
        found = table_file.read(path, "c0")
    assert found.labels == [row[0] for row in rows]
    assert found.lines == list(range(3, len(rows) + 3))
    assert found.columns == {name: [row[i] for row in rows] for i, name in enumerate(header) if i}
