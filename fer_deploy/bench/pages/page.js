const rows = [...document.querySelectorAll('#rows tbody tr')];
const points = [...document.querySelectorAll('.point')];
const hidden = new Set();
function show() {
  for (const row of rows) row.hidden = hidden.has(row.dataset.engine);
  const gone = new Set(rows.filter((row) => row.hidden).map((row) => row.dataset.key));
  for (const point of points) point.style.display = gone.has(point.dataset.key) ? 'none' : '';
}
for (const box of document.querySelectorAll('.controls input')) {
  box.addEventListener('change', () => { box.checked ? hidden.delete(box.value) : hidden.add(box.value); show(); });
}
function light(key) {
  for (const row of rows) row.classList.toggle('lit', row.dataset.key === key);
  const any = points.some((point) => point.dataset.key === key);
  for (const point of points) {
    point.classList.toggle('lit', point.dataset.key === key);
    point.classList.toggle('dim', any && key !== null && point.dataset.key !== key);
  }
}
for (const item of [...rows, ...points]) {
  item.addEventListener('mouseenter', () => light(item.dataset.key));
  item.addEventListener('mouseleave', () => light(null));
}
for (const table of document.querySelectorAll('table.sortable')) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.addEventListener('click', () => {
    const down = head.getAttribute('aria-sort') === 'ascending';
    heads.forEach((other) => other.removeAttribute('aria-sort'));
    head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    const value = (row) => row.cells[column].dataset.value;
    const compare = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === '' || y === '') return (x === '') - (y === '');  // rows without the figure come last
      const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
      return down ? -order : order;
    };
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
  }));
}
for (const choice of document.querySelectorAll('select')) {
  const shown = document.querySelectorAll(`#${choice.dataset.of} > *`);
  const choose = () => shown.forEach((item, index) => { item.hidden = choice.value !== 'all' && Number(choice.value) !== index; });
  choice.addEventListener('change', choose);
  choose();
}
