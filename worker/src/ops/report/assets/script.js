'use strict';
(() => {
  const data = (id) => {
    const element = document.getElementById(id);
    return element ? JSON.parse(element.textContent) : null;
  };

  /* The cloud of customers: turned by drag, keys and buttons. */
  const cloud = (figure, view) => {
    const canvas = figure.querySelector('canvas');
    const paint = canvas.getContext('2d');
    const count = view.points.length / 4;
    const order = Array.from({ length: count }, (_, i) => i);
    const depth = new Float64Array(count);
    let yaw, pitch, zoom, waiting = false;

    const draw = () => {
      waiting = false;
      const ratio = window.devicePixelRatio || 1;
      const width = canvas.clientWidth, height = canvas.clientHeight;
      if (!width) return;
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
      paint.setTransform(ratio, 0, 0, ratio, 0, 0);
      const style = getComputedStyle(canvas);
      const colour = (name) => style.getPropertyValue('--' + name).trim();
      const colours = Array.from({ length: 8 }, (_, i) => colour('c' + i));
      const [cy, sy, cp, sp] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
      const half = Math.min(width, height) * 0.43 * zoom;
      const place = (x, y, z) => {
        const u = x * cy - z * sy, w = x * sy + z * cy;
        return [width / 2 + u * half, height / 2 - (y * cp - w * sp) * half, y * sp + w * cp];
      };
      paint.lineWidth = 1;
      paint.strokeStyle = colour('line');
      for (const axis of [[1, 0, 0], [0, 1, 0], [0, 0, 1]]) {
        const a = place(-axis[0], -axis[1], -axis[2]), b = place(...axis);
        paint.beginPath(); paint.moveTo(a[0], a[1]); paint.lineTo(b[0], b[1]); paint.stroke();
      }
      const p = view.points;
      for (let i = 0; i < count; i++) {
        depth[i] = (p[4 * i + 1] * sp + (p[4 * i] * sy + p[4 * i + 2] * cy) * cp) / 1000;
      }
      order.sort((a, b) => depth[a] - depth[b]);
      for (const i of order) {
        const [x, y] = place(p[4 * i] / 1000, p[4 * i + 1] / 1000, p[4 * i + 2] / 1000);
        const near = Math.max(0, Math.min(1, (depth[i] + 1) / 2));
        const size = 1.1 + near * 1.3;
        const group = p[4 * i + 3];
        paint.globalAlpha = 0.4 + near * 0.5;
        paint.fillStyle = colours[group % 8];
        paint.beginPath();
        if (Math.floor(group / 8) % 2) paint.rect(x - size, y - size, 2 * size, 2 * size);
        else paint.arc(x, y, size, 0, 6.2832);
        paint.fill();
      }
      paint.globalAlpha = 1;
      paint.font = '600 12px ' + style.fontFamily;
      paint.textAlign = 'center';
      paint.textBaseline = 'middle';
      paint.lineJoin = 'round';
      [[1.05, 0, 0], [0, 1.05, 0], [0, 0, 1.05]].forEach((axis, i) => {
        const [x, y] = place(...axis);
        paint.strokeStyle = colour('paper');
        paint.lineWidth = 4;
        paint.strokeText('PC' + (i + 1), x, y);
        paint.fillStyle = colour('ink');
        paint.fillText('PC' + (i + 1), x, y);
      });
    };
    const later = () => {
      if (!waiting) { waiting = true; requestAnimationFrame(draw); }
    };
    const reset = () => { yaw = view.yaw; pitch = view.pitch; zoom = 1; };
    const moves = {
      left: () => { yaw -= 0.15; }, right: () => { yaw += 0.15; },
      up: () => { pitch += 0.15; }, down: () => { pitch -= 0.15; },
      in: () => { zoom = Math.min(8, zoom * 1.2); }, out: () => { zoom = Math.max(0.05, zoom / 1.2); },
      reset,
    };
    const keys = {
      ArrowLeft: 'left', ArrowRight: 'right', ArrowUp: 'up', ArrowDown: 'down',
      '+': 'in', '=': 'in', '-': 'out', 0: 'reset',
    };
    canvas.addEventListener('keydown', (event) => {
      const move = moves[keys[event.key]];
      if (move) { move(); later(); event.preventDefault(); }
    });
    figure.querySelectorAll('button').forEach((button) => {
      button.addEventListener('click', () => { moves[button.dataset.do](); later(); });
    });
    let last = null;
    canvas.addEventListener('pointerdown', (event) => {
      last = [event.clientX, event.clientY];
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener('pointermove', (event) => {
      if (!last) return;
      yaw += (event.clientX - last[0]) * 0.008;
      pitch += (event.clientY - last[1]) * 0.008;
      last = [event.clientX, event.clientY];
      later();
    });
    for (const end of ['pointerup', 'pointercancel']) canvas.addEventListener(end, () => { last = null; });
    for (const query of ['(prefers-color-scheme: dark)', 'print']) matchMedia(query).addEventListener('change', draw);
    window.addEventListener('resize', later);
    figure.hidden = false;
    reset();
    draw();
  };

  /* Search over products. Text goes in by textContent alone. */
  const finder = (root, products) => {
    const box = root.querySelector('input'), hits = document.getElementById('finder-hits');
    const status = document.getElementById('finder-count');
    const keys = products.texts.map((text, i) => (text + ' ' + products.codes[i]).toLowerCase());
    const LIMIT = 10;
    const add = (parent, tag, text) => {
      const element = document.createElement(tag);
      if (text !== undefined) element.textContent = text;
      parent.append(element);
      return element;
    };
    const show = (found) => {
      hits.replaceChildren();
      for (const i of found.slice(0, LIMIT)) {
        const item = add(hits, 'li');
        const head = add(item, 'h4', products.texts[i] + ' ');
        if (products.codes[i]) add(head, 'span', products.codes[i]);
        const list = add(item, 'ol');
        const near = products.near[i];
        for (let j = 0; j < near.length; j += 2) {
          const row = add(list, 'li');
          const link = add(row, 'button', products.texts[near[j]]);
          link.type = 'button';
          link.addEventListener('click', () => { box.value = products.texts[near[j]]; search(); box.focus(); });
          const meter = add(row, 'span');
          meter.className = 'meter';
          add(meter, 'i').style.width = Math.max(0, Math.min(100, near[j + 1] / 10)) + '%';
          add(row, 'span', (near[j + 1] / 1000).toFixed(2));
        }
      }
    };
    const search = () => {
      const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
      if (!words.length) {
        status.textContent = 'Best sellers first; type to search all ' + products.texts.length.toLocaleString('en') + '.';
        show(products.first);
        return;
      }
      const exact = box.value.trim().toLowerCase();
      const found = [];
      keys.forEach((key, i) => {
        if (products.near[i].length && words.every((word) => key.includes(word))) found.push(i);
      });
      found.sort((a, b) =>
        (products.texts[b].toLowerCase() === exact) - (products.texts[a].toLowerCase() === exact) || a - b);
      status.textContent = found.length + (found.length === 1 ? ' product' : ' products')
        + (found.length > LIMIT ? ', the first ' + LIMIT + ' shown' : '');
      show(found);
    };
    box.addEventListener('input', search);
    document.getElementById('finder-static').hidden = true;
    root.hidden = false;
    search();
  };

  const view = data('cloud-data');
  if (view) cloud(document.getElementById('cloud'), view);
  const products = data('finder-data');
  if (products) finder(document.getElementById('finder'), products);
})();
