// Zoom, search and keyboard of one flame graph. Frames are in preorder; their
// places as drawn are the record, all else is computed from them.
addEventListener("DOMContentLoaded", start);
if (document.readyState !== "loading") start();
var started;
function start() {
  if (started) return;
  started = true;
  var svg = document.getElementById("quantra"), box = document.getElementById("frames");
  var detail = document.getElementById("detail"), tools = document.getElementById("tools");
  var bg = document.getElementById("bg");
  var form = tools.querySelector("form"), input = form.querySelector("input"), out = form.querySelector("output");
  var M = 10, CW = 7.224;
  var width = +svg.getAttribute("width"), height = +svg.getAttribute("height");
  var inner = width - 2 * M;
  var gs = Array.prototype.slice.call(box.children), path = [];
  var fs = gs.map(function (g, i) {
    var r = g.querySelector("rect"), lines = g.querySelector("title").textContent.split("\n");
    var f = {
      i: i, g: g, r: r, t: g.querySelector("text"), l: +g.getAttribute("data-l"),
      x: (+r.getAttribute("x") - M) / inner, w: +r.getAttribute("width") / inner, y: +r.getAttribute("y"),
      name: lines[0], info: lines.slice(1).join(" ")
    };
    path.length = f.l;
    f.up = f.l ? path[f.l - 1] : null;
    path[f.l] = f;
    return f;
  });
  if (!fs.length) return;
  var root = fs[0], zoomed = root, sel = null;
  function short(n) {
    var e = n.search(/[(\[<{ ]/), p = e > 0 ? n.slice(0, e) : n, s = p.lastIndexOf("/");
    return s >= 0 && s + 1 < n.length ? n.slice(s + 1) : n;
  }
  function fitted(n, k) {
    n = short(n);
    if (n.length <= k) return n;
    var d = n.indexOf(".");
    if (d > 0 && d + 1 < n.length && !/[(\[<{ :]/.test(n.slice(0, d))) n = n.slice(d + 1);
    return n.length <= k ? n : n.slice(0, k - 1) + "\u2026";
  }
  function within(f, z) { return f.x >= z.x - 1e-9 && f.x + f.w <= z.x + z.w + 1e-9; }
  function layout() {
    var W = width - 2 * M, z = zoomed;
    fs.forEach(function (f) {
      var up = f.l < z.l, on = up ? within(z, f) : f.l === z.l ? f === z : within(f, z);
      var x = up ? 0 : (f.x - z.x) / z.w, w = up ? 1 : f.w / z.w;
      on = on && (w * W >= 0.1 || f === root);
      f.on = on;
      f.g.style.display = on ? "" : "none";
      if (!on) return;
      f.g.classList.toggle("up", up);
      f.r.setAttribute("x", M + x * W);
      f.r.setAttribute("width", Math.max(w * W - (w * W > 3 ? 0.5 : 0), 0.1));
      var fit = Math.floor((w * W - 6) / CW);
      if (fit < 3) { if (f.t) f.t.textContent = ""; return; }
      if (!f.t) {
        f.t = document.createElementNS("http://www.w3.org/2000/svg", "text");
        f.t.setAttribute("y", f.y + 13);
        f.g.appendChild(f.t);
      }
      f.t.setAttribute("x", M + x * W + 3);
      f.t.textContent = fitted(f.name, fit);
    });
  }
  function zoom(f) { zoomed = f; layout(); }
  function show(f) { detail.textContent = f ? f.name + "  \u2014  " + f.info : ""; }
  function select(f) {
    if (!f || !f.on) return;
    if (sel) sel.g.classList.remove("sel");
    sel = f;
    f.g.classList.add("sel");
    show(f);
  }
  function search() {
    var re = null, sum = 0, n = 0, end = -1;
    input.classList.remove("bad");
    if (input.value) {
      try { re = new RegExp(input.value, "i"); } catch (e) { input.classList.add("bad"); out.textContent = "not a regular expression"; return; }
    }
    box.classList.toggle("found", !!re);
    fs.forEach(function (f) {
      var hit = !!re && f !== root && re.test(f.name);
      f.g.classList.toggle("hit", hit);
      if (!hit) return;
      n++;
      if (f.x >= end - 1e-12) { sum += f.w; end = f.x + f.w; } // the outermost of nested matches
    });
    out.textContent = re ? n + " frames, " + (100 * sum).toFixed(2) + "%" : "";
  }
  function frameOf(e) {
    var g = e.target.closest ? e.target.closest("#frames > g") : null;
    return g ? fs[gs.indexOf(g)] : null;
  }
  box.addEventListener("click", function (e) { var f = frameOf(e); if (f) { zoom(f === zoomed && f.up ? f.up : f); select(f); } });
  box.addEventListener("mouseover", function (e) { show(frameOf(e)); });
  box.addEventListener("mouseout", function () { show(sel); });
  input.addEventListener("input", search);
  form.addEventListener("submit", function (e) { e.preventDefault(); });
  form.addEventListener("reset", function () { setTimeout(function () { search(); zoom(root); }, 0); });
  addEventListener("keydown", function (e) {
    var typing = e.target === input, k = e.key;
    if ((e.ctrlKey || e.metaKey) && k === "f" || k === "/" && !typing) { e.preventDefault(); input.focus(); input.select(); return; }
    if (k === "Escape") {
      if (input.value) { input.value = ""; search(); } else zoom(root);
      input.blur();
      return;
    }
    if (typing || e.ctrlKey || e.metaKey || e.altKey) return;
    var f = sel && sel.on ? sel : zoomed, to = null, j;
    if (k === "Enter") { zoom(f); e.preventDefault(); return; }
    // Where calls go down, Down is into a call; where they go up, Up is.
    var down = fs.length < 2 || fs[1].y > fs[0].y;
    if (k === (down ? "ArrowUp" : "ArrowDown")) to = f.up;
    else if (k === (down ? "ArrowDown" : "ArrowUp")) for (j = f.i + 1; j < fs.length && fs[j].l > f.l && !to; j++) { if (fs[j].l === f.l + 1 && fs[j].on) to = fs[j]; }
    else if (k === "ArrowRight") for (j = f.i + 1; j < fs.length && !to && fs[j].l >= f.l; j++) { if (fs[j].l === f.l && fs[j].on) to = fs[j]; }
    else if (k === "ArrowLeft") for (j = f.i - 1; j >= 0 && !to && fs[j].l >= f.l; j--) { if (fs[j].l === f.l && fs[j].on) to = fs[j]; }
    else return;
    e.preventDefault();
    select(to);
  });
  function resize() {
    // Alone in its window the graph fills it; inside a page it keeps its size.
    if (document.documentElement === svg) {
      width = Math.max(innerWidth, 480);
      svg.setAttribute("width", width);
      svg.setAttribute("viewBox", "0 0 " + width + " " + height);
    }
    bg.setAttribute("width", width);
    tools.setAttribute("x", width - M - 400);
    layout();
  }
  addEventListener("resize", resize);
  resize();
}
