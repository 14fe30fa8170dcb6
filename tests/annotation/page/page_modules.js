// What tests/test_page_browser.py calls in a page: functions over the page's own modules.
({
  // The pixels of a polygon of [x, y] in a box of h×w, as text of runs.js.
  polygon: async ([points, h, w]) => {
    const [{ Region }, { encode }] = await Promise.all([import("./static/region.js"), import("./static/runs.js")]);
    const region = new Region({ width: w, height: h });
    region.put(region.polygon(points), 1);
    return encode(region.values);
  },

  // Three hundred strokes of all tools, all undone and done again: "right", or what was wrong.
  histories: async () => {
    const { Region, UNDECIDED } = await import("./static/region.js");
    let seed = 1;
    const draw = (n) => (seed = (seed * 48271) % 2147483647) % n;
    const inside = Uint8Array.from({ length: 15 * 11 }, () => (draw(5) ? 1 : 0));
    const region = new Region({ width: 15, height: 11, inside, guess: new Uint8Array(165).fill(2) });
    const states = [region.values.slice()];
    const place = () => [draw(170) / 10 - 1, draw(130) / 10 - 1];
    for (let step = 0; step < 300; step++) {
      const value = draw(4) ? draw(4) : UNDECIDED;
      const tools = [
        () => region.put(region.whole, value),
        () => region.stroke(place(), place(), draw(40) / 10, value),
        () => region.put(region.connected(draw(165)), value),
        () => region.put(region.polygon([place(), place(), place()]), value),
        () => region.accept(),
        () => region.cancel(),
      ];
      region.begin();
      tools[draw(tools.length)]();
      if (region.end()) states.push(region.values.slice());
    }
    const same = (state) => state.every((value, i) => value === region.values[i]);
    if (states.length < 100) return `only ${states.length} changes`;
    if (states.some((state) => state.some((value, i) => !inside[i] && value !== UNDECIDED))) return "outside";
    for (const state of states.slice(0, -1).reverse()) if (!region.undo() || !same(state)) return "undo";
    if (region.undo()) return "undo of nothing";
    for (const state of states.slice(1)) if (!region.redo() || !same(state)) return "redo";
    return region.redo() ? "redo of nothing" : "right";
  },

  // Seconds of work with pauses and a hidden tab, and those of no time at all.
  clock: async () => {
    const { Clock } = await import("./static/clock.js");
    let now = 0;
    const clock = new Clock(() => now);
    for (const pause of [5000, 29000, 600000]) {
      now += pause;
      clock.beat();
    }
    now += 1000;
    clock.hide(true);
    now += 900000;
    clock.hide(false);
    now += 2000;
    return [clock.take(), clock.take()];
  },
})
