// A fraud scorer in JavaScript. What each type means is said in wit/risk/risk.wit; integers of 64
// bits (`s64`) arrive as BigInt, variants as {tag, val}, and a thrown value is the error.

const MODEL = "example-js/1";

// A case without an amount is refused; everything else may be unknown.
const FEATURES = [
  { name: "amount_eur_minor", kind: "integer", required: true },
  { name: "new_payee", kind: "boolean", required: false },
  { name: "reason_codes", kind: "texts", required: false },
];

const RULES = [
  { code: "amount_large", feature: "amount_eur_minor", points: 400, when: (cents) => cents > 1_000_000n },
  { code: "payee_new", feature: "new_payee", points: 250, when: (isNew) => isNew },
  { code: "rules_matched", feature: "reason_codes", points: 300, when: (codes) => codes.length > 0 },
];

export const scorer = {
  features: () => FEATURES,

  score(facts) {
    const known = new Map();
    for (const { name, kind, required } of FEATURES) {
      const fact = facts.find((fact) => fact.name === name);
      if (fact && fact.value.tag !== kind) throw { tag: "wrong-type", val: name };
      if (!fact && required) throw { tag: "missing-feature", val: name };
      if (fact) known.set(name, fact.value.val);
    }
    const reasons = RULES.filter(({ feature, when }) => known.has(feature) && when(known.get(feature)))
      .map(({ code, feature, points }) => ({ code, feature, points }))
      .sort((a, b) => b.points - a.points);
    const score = reasons.reduce((sum, { points }) => sum + points, 0);
    return { score: Math.min(score, 1000), reasons, model: MODEL };
  },
};
